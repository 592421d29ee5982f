"""/v1/webhook_endpoints: who is told of what, and the telling."""
