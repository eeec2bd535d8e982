"""S2ENet (Fang et al. 2022)."""
