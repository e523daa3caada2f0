"""The sections of the page: each a module that gathers the content, and the template that shows it."""
