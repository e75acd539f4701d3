"""The OpenAPI document: parameters, statuses and problems of every route."""
