"""What a run leaves on disk: a folder of results, and a record of its decisions."""
