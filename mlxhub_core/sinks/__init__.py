"""The sinks that come with mlxhub-core. They are registered and chosen like any other."""
