"""What users test with: contract suites, memory adapters, simulated providers, issuer and clock."""
