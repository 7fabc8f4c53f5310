"""What people and machines read: text, JSON documents, annotations. Pure."""
