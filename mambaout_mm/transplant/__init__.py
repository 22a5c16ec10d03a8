"""A backbone put into configs of mmdet and mmseg that were written for another one."""
