"""What the tests share: programs, providers, reports, and ways of spending."""
