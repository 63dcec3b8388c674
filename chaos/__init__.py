"""Many processes, under kills and faults, and a checker that reads what each of them wrote down. See README.md."""
