"""The ports: what core asks of the world outside, as Protocols. Adapters live with the hosts."""
