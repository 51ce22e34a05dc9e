/*
 * gen_shape.c
 *		The messages of the four reference systems, field for field.
 *
 * A message depends on the seed and on its number only.  Amounts are whole
 * cents, written as Python's json module writes such a number: no zeros at
 * the end, but one digit behind the point.
 */
#include "gen.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static const Shape shapes[] = {
	{"logs", 'a', "fraud-logs", 100001, 1000000},
	{"transfers", 'b', "queueing.transactions", 90000, 1000000},
	{"payments", 'c', "payment-transactions", 50001, 1000000},
	{"cards", 'd', "credit_card_transactions", 50001, 100000},
};

static const struct
{
	const char *city;
	const char *state;
} places[] = {
	{"San Francisco", "CA"},
	{"New York", "NY"},
	{"Los Angeles", "CA"},
	{"Chicago", "IL"},
	{"Houston", "TX"},
	{"Phoenix", "AZ"},
	{"Philadelphia", "PA"},
	{"San Antonio", "TX"},
	{"San Diego", "CA"},
	{"Dallas", "TX"},
	{"San Jose", "CA"},
	{"Austin", "TX"},
	{"Jacksonville", "FL"},
	{"Columbus", "OH"},
	{"Charlotte", "NC"},
	{"Indianapolis", "IN"},
	{"Seattle", "WA"},
	{"Denver", "CO"},
	{"Washington", "DC"},
	{"Boston", "MA"},
	{"Nashville", "TN"},
	{"Detroit", "MI"},
	{"Portland", "OR"},
	{"Las Vegas", "NV"},
	{"Memphis", "TN"},
	{"Louisville", "KY"},
	{"Baltimore", "MD"},
	{"Milwaukee", "WI"},
	{"Albuquerque", "NM"},
	{"Tucson", "AZ"},
	{"Fresno", "CA"},
	{"Sacramento", "CA"},
	{"Kansas City", "MO"},
	{"Atlanta", "GA"},
	{"Omaha", "NE"},
	{"Miami", "FL"},
	{"Minneapolis", "MN"},
	{"New Orleans", "LA"},
	{"Honolulu", "HI"},
	{"Anchorage", "AK"},
	{"Salt Lake City", "UT"},
	{"Boise", "ID"},
	{"Coeur d'Alene", "ID"},
	{"Winston-Salem", "NC"},
	{"Port St. Lucie", "FL"},
	{"Truth or Consequences", "NM"},
	{"West Christopher", "AZ"},
	{"Julieshire", "KY"},
};

static const char *const surnames[] = {
	"Jones",	"Smith",   "Garcia",  "Miller", "Davis",	"Martinez",
	"Lopez",	"Wilson",  "Lee",	  "Clark",	"O'Connor", "Nguyen",
	"Robinson", "Hughes",  "Diaz",	  "Cooper", "Howard",	"Flores",
	"Reyes",	"Kim",	   "Patel",	  "Murphy", "Sanchez",	"Bennett",
	"Gray",		"Ramirez", "Foster",  "Powell", "Long",		"Simmons",
	"Bryant",	"Russell", "Griffin", "Hayes",	"Myers",	"Ford",
};

static const char *const suffixes[] = {" Inc", " LLC",	 " PLC",
									   " Ltd", " Group", " and Sons"};

/* Merchants that one of the systems has a rule for */
static const char *const bad_merchants[] = {"ScamCorp", "FraudTech",
											"ShadyBiz"};

/* How the numbers of card brands begin, and how long they are */
static const struct
{
	const char *prefix;
	int			length;
} brands[] = {{"4", 16},	{"4", 16},	  {"4", 13},	{"4", 19},
			  {"51", 16},	{"52", 16},	  {"55", 16},	{"2221", 16},
			  {"34", 15},	{"37", 15},	  {"6011", 16}, {"65", 16},
			  {"30", 14},	{"36", 14},	  {"3528", 16}, {"5038", 12},
			  {"5018", 12}, {"6304", 12}, {"1800", 15}};

/*
 * Find a shape by its name or its system's letter
 */
const Shape *
shape_find(const char *name)
{
	for (size_t i = 0; i < lengthof(shapes); i++)
	{
		if (strcmp(shapes[i].name, name) == 0 ||
			(name[0] == shapes[i].letter && name[1] == '\0'))
			return &shapes[i];
	}
	return NULL;
}

/*
 * Prepare a generator whose options are set
 */
void
generator_init(Generator *generator)
{
	const Shape *shape = generator->shape;
	/* so that a few in a thousand are cut off at the largest amount */
	double spread = log((double) shape->most / (double) shape->limit) / 2.7;

	distribution_lognormal(&generator->legit, 3800.0, 1.1, 0.0);
	distribution_lognormal(&generator->fraud, (double) shape->limit, spread,
						   0.5);
	distribution_zipf(&generator->popularity, generator->keys);
	generator->second = INT64_MIN;
}

/* ---- pieces ---- */

/*
 * Append a text
 */
static inline void
put(Message *message, const char *text)
{
	size_t len = strlen(text);

	memcpy(message->value + message->value_len, text, len);
	message->value_len += len;
}

/*
 * Append bytes
 */
static inline void
put_bytes(Message *message, const char *bytes, size_t len)
{
	memcpy(message->value + message->value_len, bytes, len);
	message->value_len += len;
}

/*
 * Append a whole number
 */
static void
put_number(Message *message, uint64_t number)
{
	char  digits[20];
	char *pos = digits + sizeof(digits);

	do
		*--pos = (char) ('0' + number % 10);
	while ((number /= 10) > 0);
	put_bytes(message, pos, (size_t) (digits + sizeof(digits) - pos));
}

/*
 * Append cents as a decimal number
 */
static void
put_amount(Message *message, int64_t cents)
{
	char decimals[3] = {'.', (char) ('0' + cents / 10 % 10),
						(char) ('0' + cents % 10)};

	put_number(message, (uint64_t) (cents / 100));
	put_bytes(message, decimals, cents % 10 == 0 ? 2 : 3);
}

/*
 * Work out date and time of a message
 */
static int
set_time(Generator *generator, uint64_t number)
{
	int64_t ms =
		generator->start_ms + (int64_t) ((double) number * generator->step_ms);
	int64_t second = ms / 1000;

	if (ms % 1000 < 0)
		second--;
	if (second != generator->second)
	{
		time_t	  clock = (time_t) second;
		struct tm tm;

		gmtime_r(&clock, &tm);
		strftime(generator->date, sizeof(generator->date), "%Y-%m-%d", &tm);
		strftime(generator->time, sizeof(generator->time), "%H:%M:%S", &tm);
		generator->second = second;
	}
	return (int) (ms - second * 1000);
}

/*
 * Draw the number of an account or card
 */
static uint32_t
draw_key(const Generator *generator, Random *random)
{
	int64_t number = distribution_draw(&generator->popularity, random) / 1024;

	return number < generator->keys ? (uint32_t) number : generator->keys - 1;
}

/*
 * Draw an amount; says whether it is a fraud
 */
static int64_t
draw_amount(const Generator *generator, Random *random, bool *fraud)
{
	const Shape *shape = generator->shape;
	int64_t		 cents;

	/* fraud_share may be all of 2^32, which UINT32_MAX stands for */
	*fraud = generator->fraud_share == UINT32_MAX ||
			 (random_next(random) >> 32) < generator->fraud_share;
	if (*fraud)
	{
		cents = distribution_draw(&generator->fraud, random);
		if (cents < shape->limit)
			cents = shape->limit;
		return cents > shape->most ? shape->most : cents;
	}
	cents = distribution_draw(&generator->legit, random);
	if (cents < 100)
		cents = 100;
	return cents >= shape->limit ? shape->limit - 1 : cents;
}

/*
 * The name of an account: twelve letters and digits
 */
static void
account_name(const Generator *generator, uint32_t number, char out[12])
{
	static const char letters[] = "0123456789abcdefghijklmnopqrstuvwxyz"
								  "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
	Random			  random;

	random_seed(&random, generator->seed ^ UINT64_C(0xACC0), number);
	for (int i = 0; i < 12; i++)
		out[i] = letters[random_below(&random, sizeof(letters) - 1)];
}

/*
 * The number of a card, with its check digit; returns its length
 */
static size_t
card_number(const Generator *generator, uint32_t number, char out[20])
{
	Random random;
	size_t brand, len, pos;
	int	   sum = 0;

	random_seed(&random, generator->seed ^ UINT64_C(0xCA2D), number);
	brand = random_below(&random, lengthof(brands));
	len = (size_t) brands[brand].length;
	pos = strlen(brands[brand].prefix);
	memcpy(out, brands[brand].prefix, pos);
	for (; pos < len - 1; pos++)
		out[pos] = (char) ('0' + random_below(&random, 10));
	/* from the right, every second digit counts twice (Luhn) */
	for (size_t i = 0; i < len - 1; i++)
	{
		int digit = out[i] - '0';

		if ((len - i) % 2 == 0)
			digit = digit > 4 ? digit * 2 - 9 : digit * 2;
		sum += digit;
	}
	out[len - 1] = (char) ('0' + (10 - sum % 10) % 10);
	return len;
}

/*
 * Append a merchant's name
 */
static void
put_merchant(Message *message, Random *random)
{
	uint32_t	bits = random_below(random, 1 << 20);
	const char *first = surnames[bits % lengthof(surnames)];
	const char *second = surnames[bits / 64 % lengthof(surnames)];

	if (message->fraud && bits % 16 == 0)
	{
		put(message, bad_merchants[bits / 16 % lengthof(bad_merchants)]);
		return;
	}
	put(message, first);
	switch (bits >> 17)
	{
		case 0:
			put(message, ", ");
			put(message, second);
			put(message, " and ");
			put(message, surnames[bits / 4096 % lengthof(surnames)]);
			break;
		case 1:
		case 2:
			put(message, "-");
			put(message, second);
			break;
		default:
			put(message, suffixes[bits / 64 % lengthof(suffixes)]);
	}
}

/* ---- the shapes ---- */

/*
 * System A: {"user_id", "amount", "timestamp"}
 */
static void
write_log(Generator *generator, uint64_t number, Random *random,
		  Message *message)
{
	int64_t cents = draw_amount(generator, random, &message->fraud);
	int		ms = set_time(generator, number);
	char	tail[8];

	put(message, "{\"user_id\": \"u");
	put_number(message, draw_key(generator, random) + UINT64_C(1));
	/* the key is the user, as it stands in the message */
	message->key_len = message->value_len - strlen("{\"user_id\": \"");
	memcpy(message->key, message->value + strlen("{\"user_id\": \""),
		   message->key_len);
	put(message, "\", \"amount\": ");
	put_amount(message, cents);
	put(message, ", \"timestamp\": \"");
	put(message, generator->date);
	put(message, "T");
	put(message, generator->time);
	snprintf(tail, sizeof(tail), ".%03dZ", ms);
	put(message, tail);
	put(message, "\"}");
}

/*
 * System B: {"source", "target", "amount", "currency"}
 */
static void
write_transfer(Generator *generator, Random *random, Message *message)
{
	int64_t	 cents = draw_amount(generator, random, &message->fraud);
	uint32_t source = draw_key(generator, random);
	uint32_t target = random_below(random, generator->keys);
	char	 name[12];

	if (target == source && generator->keys > 1)
		target = (target + 1) % generator->keys;
	account_name(generator, source, message->key);
	message->key_len = 12;
	account_name(generator, target, name);
	put(message, "{\"source\": \"");
	put_bytes(message, message->key, 12);
	put(message, "\", \"target\": \"");
	put_bytes(message, name, 12);
	put(message, "\", \"amount\": ");
	put_amount(message, cents);
	put(message, ", \"currency\": \"USD\"}");
}

/*
 * System C: {"transaction_id", "timestamp", "user_id", "card_number",
 * "amount"}.  Its ids have four digits and collide; a card is always the same
 * user's, of whom there are a hundred.
 */
static void
write_payment(Generator *generator, uint64_t number, Random *random,
			  Message *message)
{
	int64_t	 cents = draw_amount(generator, random, &message->fraud);
	uint32_t card = draw_key(generator, random);

	set_time(generator, number);
	message->key_len = card_number(generator, card, message->key);
	put(message, "{\"transaction_id\": ");
	put_number(message, 1000 + random_below(random, 9000));
	put(message, ", \"timestamp\": \"");
	put(message, generator->date);
	put(message, " ");
	put(message, generator->time);
	put(message, "\", \"user_id\": ");
	put_number(message, card % 100 + 1);
	put(message, ", \"card_number\": \"");
	put_bytes(message, message->key, message->key_len);
	put(message, "\", \"amount\": ");
	put_amount(message, cents);
	put(message, "}");
}

/*
 * System D: {"card_number", "amount", "timestamp", "location": {"city",
 * "state"}, "merchant"}.  Nine of ten payments are made where the card lives.
 */
static void
write_card(Generator *generator, uint64_t number, Random *random,
		   Message *message)
{
	int64_t	 cents = draw_amount(generator, random, &message->fraud);
	uint32_t card = draw_key(generator, random);
	size_t	 place = card * 7 % lengthof(places);

	if (random_below(random, 10) == 0)
		place = random_below(random, lengthof(places));
	set_time(generator, number);
	message->key_len = card_number(generator, card, message->key);
	put(message, "{\"card_number\": \"");
	put_bytes(message, message->key, message->key_len);
	put(message, "\", \"amount\": ");
	put_amount(message, cents);
	put(message, ", \"timestamp\": \"");
	put(message, generator->date);
	put(message, "T");
	put(message, generator->time);
	put(message, "\", \"location\": {\"city\": \"");
	put(message, places[place].city);
	put(message, "\", \"state\": \"");
	put(message, places[place].state);
	put(message, "\"}, \"merchant\": \"");
	put_merchant(message, random);
	put(message, "\"}");
}

/*
 * Write the message of that number, counted from 0
 */
void
generator_message(Generator *generator, uint64_t number, Message *message)
{
	Random random;

	random_seed(&random, generator->seed, number);
	message->value_len = 0;
	switch (generator->shape->letter)
	{
		case 'a':
			write_log(generator, number, &random, message);
			break;
		case 'b':
			write_transfer(generator, &random, message);
			break;
		case 'c':
			write_payment(generator, number, &random, message);
			break;
		default:
			write_card(generator, number, &random, message);
	}
}
