"""Every order to hardware: what it may be, where it stands, how it ended."""
