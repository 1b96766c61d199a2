"""Tables of the papers and of the README, each by one command."""
