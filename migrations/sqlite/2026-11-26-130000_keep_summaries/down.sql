DROP TABLE session_summary;
