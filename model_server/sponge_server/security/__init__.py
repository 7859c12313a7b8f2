"""Who may talk to the server: certificates of the ports, API keys of the data ports; read again when they change."""
