"""What will fit and how long it takes, before anything is loaded."""
