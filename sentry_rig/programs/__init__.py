"""Mining programs a rig can run: one file a program, one line in `table.py`."""
