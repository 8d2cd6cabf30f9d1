"""The paper (arXiv 2305.08001) put to the test: one script for each claim."""
