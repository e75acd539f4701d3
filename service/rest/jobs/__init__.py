"""The routes of jobs: submit one, ask for its state, its result and its events."""
