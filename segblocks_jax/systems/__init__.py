"""Systems that spend computation where it matters, a package each with all that is its own."""
