"""The dashboard: pages made by the server from the store."""
