"""The custom resource, the manifests of its children, and its status."""
