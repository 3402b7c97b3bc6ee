"""Starting the supervisor of a call and collecting what it prints."""
