"""ExampleValidator: stops a run whose held-out images are not like those that it trains on."""
