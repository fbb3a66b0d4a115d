"""Config files, options of the command line and folders of runs."""
