// mongo-command runs database commands, written as extended JSON, and prints the answers, each on a line. This image has no shell for it.
//
//	mongo-command '{"ping": 1}'
//	mongo-command -db shop <commands.json
//
// The server and the user are those of -uri or of $MONGO_URI; without them, the server beside it and nobody. Commands on the standard
// input are run through one connection, each as soon as it is read, up to the first that fails.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/bson"
	"go.mongodb.org/mongo-driver/mongo"
	"go.mongodb.org/mongo-driver/mongo/options"
)

func run(ctx context.Context, database *mongo.Database, text []byte) error {
	var command, answer bson.D
	if err := bson.UnmarshalExtJSON(text, false, &command); err != nil {
		return err
	}
	if err := database.RunCommand(ctx, command).Decode(&answer); err != nil {
		return err
	}
	line, err := bson.MarshalExtJSON(answer, false, false)
	if err == nil {
		fmt.Println(string(line))
	}
	return err
}

func runAll(uri, name string, commands io.Reader) error {
	if uri == "" {
		uri = os.Getenv("MONGO_URI")
	}
	if uri == "" {
		uri = "mongodb://127.0.0.1:27017/?directConnection=true"
	}
	ctx := context.Background()
	client, err := mongo.Connect(ctx, options.Client().ApplyURI(uri).SetServerSelectionTimeout(5*time.Second).SetTimeout(30*time.Second))
	if err != nil {
		return err
	}
	defer client.Disconnect(ctx)
	for decoder := json.NewDecoder(commands); ; {
		var text json.RawMessage
		if err := decoder.Decode(&text); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := run(ctx, client.Database(name), text); err != nil {
			return err
		}
	}
}

func main() {
	uri := flag.String("uri", "", "mongodb://…")
	database := flag.String("db", "admin", "the database that the commands are run in")
	flag.Parse()
	commands := io.Reader(os.Stdin)
	if flag.NArg() > 0 {
		commands = strings.NewReader(flag.Arg(0))
	}
	if err := runAll(*uri, *database, commands); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
