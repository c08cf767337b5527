DROP TABLE message;
DROP TABLE turn;
DROP TABLE session;
