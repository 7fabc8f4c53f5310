"""The two routes, and what is behind them."""
