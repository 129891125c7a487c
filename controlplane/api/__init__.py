"""HTTP routes and pages of the control plane."""
