"""What to mine: sheets, the programs they run, what each device should run and whether it does."""
