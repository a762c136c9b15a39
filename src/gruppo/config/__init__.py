"""The options: schema, reading and checking of files and flags, schedules, advice."""
