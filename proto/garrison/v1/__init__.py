"""Generated stubs of `garrison.v1`. Made by `make stubs`, never edited."""
