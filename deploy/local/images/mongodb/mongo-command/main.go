// mongo-command runs one database command, written as extended JSON, and prints the answer. This image has no shell for it.
//
//	mongo-command '{"ping": 1}'
//	mongo-command -db shop <command.json
//
// The server and the user are those of -uri or of $MONGO_URI; without them, the server beside it and nobody.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

func run(uri, database string, arguments []string) error {
	if uri == "" {
		uri = os.Getenv("MONGO_URI")
	}
	if uri == "" {
		uri = "mongodb://127.0.0.1:27017/?directConnection=true"
	}
	var text []byte
	if len(arguments) > 0 {
		text = []byte(arguments[0])
	} else {
		var err error
		if text, err = io.ReadAll(os.Stdin); err != nil {
			return err
		}
	}
	var command bson.D
	if err := bson.UnmarshalExtJSON(text, false, &command); err != nil {
		return err
	}
	ctx := context.Background()
	client, err := mongo.Connect(ctx, options.Client().ApplyURI(uri).SetServerSelectionTimeout(5*time.Second).SetTimeout(30*time.Second))
	if err != nil {
		return err
	}
	defer client.Disconnect(ctx)
	var answer bson.D
	if err := client.Database(database).RunCommand(ctx, command).Decode(&answer); err != nil {
		return err
	}
	line, err := bson.MarshalExtJSON(answer, false, false)
	if err == nil {
		fmt.Println(string(line))
	}
	return err
}

func main() {
	uri := flag.String("uri", "", "mongodb://…")
	database := flag.String("db", "admin", "the database that the command is run in")
	flag.Parse()
	if err := run(*uri, *database, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
