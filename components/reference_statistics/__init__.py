"""ReferenceStatistics: real images in the features of one network, computed once for all models compared."""
