"""The command line: every argparse, one file a command."""
