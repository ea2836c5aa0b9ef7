"""What several tests share. Nothing here is a test, and nothing is imported that a test did not ask for."""
