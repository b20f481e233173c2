"""What a run leaves on disk: checkpoint sets that survive any stop, exports that load."""
