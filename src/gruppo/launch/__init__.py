"""From a config to running objects: the only room that picks an engine."""
