-- Run once by the PostgreSQL image when its volume is empty; the database of the ledger is made by POSTGRES_DB.
CREATE DATABASE prefect;
CREATE DATABASE mlflow;
