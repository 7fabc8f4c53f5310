"""What people and programs read: text, JSON documents, annotations. Pure."""
