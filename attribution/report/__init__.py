"""What a person opens: panels, pages, tables and plots."""
