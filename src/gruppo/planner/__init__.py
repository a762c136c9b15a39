"""What a run will take before it is started: memory, time, money. No framework is loaded here."""
