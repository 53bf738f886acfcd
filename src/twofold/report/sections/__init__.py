"""The sections of the page, one file each: from a report to HTML."""
