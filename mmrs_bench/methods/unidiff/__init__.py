"""UniDiff and GeoDiffNet-F."""
