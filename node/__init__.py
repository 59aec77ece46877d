"""One process that holds agents' WebSockets. It owns nothing that must survive it, and never imports router."""
