"""mlxhub's figures, each beside its floor and its peers in the same run: `make bench`."""
