"""Ways to reach the package from outside. Interfaces know `api` and below, and never one another."""
