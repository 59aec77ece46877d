"""One process that takes the control plane's calls; as many replicas as wanted. It never imports node."""
