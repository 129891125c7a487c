"""The portable forms of trained policies: plain numbers that need no learning library."""
