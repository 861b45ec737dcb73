"""What a release consists of and says: bundle, reports, keys, single files, cached graphs."""
