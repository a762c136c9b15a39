"""What a run leaves behind and shows while it goes: metrics, run folder, diagnosis, progress, mirrors, report."""
