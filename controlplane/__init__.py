"""What is served: registry, gates, rounds, publishing, HTTP, pages and the command line."""
