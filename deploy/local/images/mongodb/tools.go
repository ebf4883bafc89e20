//go:build tools

// Package mongodb pins the programs beside the server in the local cluster's MongoDB image.
package mongodb

import (
	_ "github.com/mongodb/mongo-tools/mongodump/main"
	_ "github.com/mongodb/mongo-tools/mongorestore/main"
)
