/*
 * time_text.c: strict reading and canonical writing of times.
 *
 * PostgreSQL's own parser is of no use here: it knows "now" and "infinity",
 * asks the session for a zone and a date order, rounds to microseconds where
 * an order of versions needs cutting off, and does not exist in the reader.  The calendar is
 * the proleptic Gregorian one, as PostgreSQL's.
 */
#include "time_text.h"

#include <limits.h>

#include "common/jsonapi.h"

#define US_PER_S		INT64CONST(1000000)
#define US_PER_DAY		(86400 * US_PER_S)
#define RANGE_START		(INT64CONST(-62135596800) * US_PER_S)	/* 0001-01-01 */
#define RANGE_END		(INT64CONST(253402300800) * US_PER_S)	/* 10000-01-01 */
#define PLAUSIBLE_START	INT64CONST(631152000)	/* 1990-01-01, in seconds */
#define PLAUSIBLE_END	INT64CONST(7258118400)	/* 2200-01-01 */

/* Longest number that is looked at: more digits than any unit and fraction needs. */
#define MAX_DIGITS		40

static const char *const out_of_years = "it is outside the years 0001 to 9999";

bool
gc_time_plausible(int64 us)
{
	return us >= PLAUSIBLE_START * US_PER_S && us < PLAUSIBLE_END * US_PER_S;
}

bool
gc_time_in_range(int64 us)
{
	return us >= RANGE_START && us < RANGE_END;
}

/* Days since 1970-01-01.  Years start in March here, so that a leap day comes last. */
static int64
days_from_date(int year, int month, int day)
{
	int64		y = month <= 2 ? year - 1 : year;
	int64		era = (y >= 0 ? y : y - 399) / 400;
	int64		year_of_era = y - era * 400;
	int64		day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	int64		day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;

	return era * 146097 + day_of_era - 719468;
}

/* The other way round. */
static void
date_from_days(int64 days, int *year, int *month, int *day)
{
	int64		shifted = days + 719468;
	int64		era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
	int64		day_of_era = shifted - era * 146097;
	int64		year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 -
							   day_of_era / 146096) / 365;
	int64		day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64		shifted_month = (5 * day_of_year + 2) / 153;

	*day = (int) (day_of_year - (153 * shifted_month + 2) / 5 + 1);
	*month = (int) (shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
	*year = (int) (year_of_era + era * 400 + (*month <= 2 ? 1 : 0));
}

static int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};

	if (month == 2 && (year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)))
		return 29;
	return days[month - 1];
}

/* Reads exactly n digits at *p and moves it behind them. */
static bool
digits(const char **p, const char *end, int n, int *value)
{
	*value = 0;
	if (end - *p < n)
		return false;
	for (int i = 0; i < n; i++)
	{
		char		c = (*p)[i];

		if (c < '0' || c > '9')
			return false;
		*value = *value * 10 + (c - '0');
	}
	*p += n;
	return true;
}

/* Reads one character of a set. */
static bool
one_of(const char **p, const char *end, const char *set)
{
	if (*p >= end || **p == '\0' || strchr(set, **p) == NULL)
		return false;
	(*p)++;
	return true;
}

/* Reads +hh, +hhmm or +hh:mm up to the end. */
static bool
parse_offset(const char *p, const char *end, int *zone)
{
	bool		west = p < end && *p == '-';
	int			hours;
	int			minutes = 0;

	if (!one_of(&p, end, "+-") || !digits(&p, end, 2, &hours))
		return false;
	if (p < end)
	{
		one_of(&p, end, ":");
		if (!digits(&p, end, 2, &minutes))
			return false;
	}
	if (p != end || hours > 15 || minutes > 59)
		return false;
	*zone = (hours * 60 + minutes) * 60 * (west ? -1 : 1);
	return true;
}

bool
gc_time_zone(const char *text, size_t len, int *zone)
{
	*zone = 0;
	if ((len == 1 && (*text == 'Z' || *text == 'z')) ||
		(len == 3 && pg_strncasecmp(text, "UTC", 3) == 0))
		return true;
	return parse_offset(text, text + len, zone);
}

/* YYYY-MM-DD */
static const char *
parse_date(const char **p, const char *end, int64 *us, bool *range)
{
	int			year;
	int			month;
	int			day;

	if (!digits(p, end, 4, &year) || !one_of(p, end, "-") ||
		!digits(p, end, 2, &month) || !one_of(p, end, "-") || !digits(p, end, 2, &day))
		return "it is neither a number nor YYYY-MM-DD";
	*range = true;
	if (year < 1)
		return out_of_years;
	if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month))
		return "there is no such day";
	*range = false;
	*us = days_from_date(year, month, day) * US_PER_DAY;
	return NULL;
}

/* hh:mm[:ss[.fraction]], added to *us */
static const char *
parse_clock(const char **p, const char *end, int64 *us, bool *range)
{
	int			hour;
	int			minute;
	int			second = 0;
	int64		micros = 0;

	if (!digits(p, end, 2, &hour) || !one_of(p, end, ":") || !digits(p, end, 2, &minute))
		return "the time of day is not hh:mm:ss";
	if (one_of(p, end, ":"))
	{
		if (!digits(p, end, 2, &second))
			return "the time of day is not hh:mm:ss";
		if (one_of(p, end, ".,"))
		{
			int64		weight = US_PER_S / 10;

			if (*p >= end || **p < '0' || **p > '9')
				return "there is no digit after the point";
			for (; *p < end && **p >= '0' && **p <= '9'; (*p)++, weight /= 10)
				micros += weight * (**p - '0');
		}
	}
	if (hour > 23 || minute > 59 || second > 59)
	{
		*range = true;
		return second == 60 ? "leap seconds are not accepted" : "there is no such time of day";
	}
	*us += ((hour * 60 + minute) * 60 + second) * US_PER_S + micros;
	return NULL;
}

static const char *
parse_iso(const char *text, size_t len, const GcTimeRule *rule, GcColumnKind kind,
		  int64 *us, bool *range)
{
	const char *p = text;
	const char *end = text + len;
	const char *reason = parse_date(&p, end, us, range);
	int			zone;

	if (reason)
		return reason;
	if (kind == GC_KIND_DATE)
		return p == end ? NULL : "a date has no time of day";
	if (!one_of(&p, end, "Tt "))
		return p == end ? "the time of day is missing" : "T or one blank must follow the date";
	reason = parse_clock(&p, end, us, range);
	if (reason)
		return reason;

	if (p == end)
	{
		if (!rule->has_zone && kind == GC_KIND_TIMESTAMPTZ)
			return "it has no zone, and none is declared";
		zone = rule->has_zone ? rule->zone : 0;
	}
	else if (*p == 'Z' || *p == 'z')
	{
		if (p + 1 != end)
			return "something follows the zone";
		zone = 0;
	}
	else if (!parse_offset(p, end, &zone))
		return "the zone is not Z, +hh, +hhmm or +hh:mm";
	*us -= zone * US_PER_S;
	if (!gc_time_in_range(*us))
	{
		*range = true;
		return out_of_years;
	}
	return NULL;
}

/* A decimal number without its point: 0.0123e5 has the digits "123" and point = 4. */
typedef struct Decimal
{
	bool		negative;
	int			ndigits;
	int			point;			/* how many digits stand before the point; may be < 0 or > ndigits */
	char		digit[MAX_DIGITS];
} Decimal;

/* Splits a valid JSON number.  False when it is longer than any time. */
static bool
split_number(const char *p, const char *end, Decimal *d)
{
	bool		after_point = false;

	memset(d, 0, sizeof(*d));
	if (p < end && *p == '-')
	{
		d->negative = true;
		p++;
	}
	for (; p < end && *p != 'e' && *p != 'E'; p++)
	{
		if (*p == '.')
		{
			after_point = true;
			continue;
		}
		if (!after_point)
			d->point++;
		if (d->ndigits == 0 && *p == '0')
			d->point--;			/* a leading zero: drop it, keep the value */
		else if (d->ndigits < MAX_DIGITS)
			d->digit[d->ndigits++] = *p;
		else if (!after_point)
			return false;
	}
	if (p < end)
	{
		bool		down;
		int			exponent = 0;

		p++;
		down = *p == '-';
		if (*p == '+' || *p == '-')
			p++;
		for (; p < end; p++)
			if ((exponent = exponent * 10 + (*p - '0')) > 100)
				return false;
		d->point += down ? -exponent : exponent;
	}
	return true;
}

/* The number times 10^shift, rounded down.  False when that has more than 18 digits. */
static bool
shifted_floor(const Decimal *d, int shift, int64 *value)
{
	int			whole = d->ndigits ? d->point + shift : 0;

	*value = 0;
	if (whole > 18)
		return false;
	for (int i = 0; i < whole; i++)
		*value = *value * 10 + (i < d->ndigits ? d->digit[i] - '0' : 0);
	if (d->negative)
	{
		*value = -*value;
		for (int i = Max(whole, 0); i < d->ndigits; i++)
			if (d->digit[i] != '0')
			{
				*value -= 1;
				break;
			}
	}
	return true;
}

static const char *
parse_epoch(const char *text, size_t len, GcTimeUnit unit, int64 *us, bool *range)
{
	Decimal		d;
	int			shift = 0;

	*range = true;
	if (!split_number(text, text + len, &d))
		return out_of_years;
	if (unit == GC_UNIT_AUTO)
	{
		static const char *const in_no_unit =
		"as s, ms or us since 1970 it is not between 1990 and 2200";
		int64		whole;

		if (!shifted_floor(&d, 0, &whole))
			return in_no_unit;
		if (whole >= PLAUSIBLE_START && whole < PLAUSIBLE_END)
			unit = GC_UNIT_S;
		else if (whole >= PLAUSIBLE_START * 1000 && whole < PLAUSIBLE_END * 1000)
			unit = GC_UNIT_MS;
		else if (whole >= PLAUSIBLE_START * US_PER_S && whole < PLAUSIBLE_END * US_PER_S)
			unit = GC_UNIT_US;
		else
			return in_no_unit;
	}
	if (unit == GC_UNIT_DAYS)
	{
		int64		days;

		if (!shifted_floor(&d, 0, &days) ||
			days < RANGE_START / US_PER_DAY || days >= RANGE_END / US_PER_DAY)
			return out_of_years;
		*us = days * US_PER_DAY;
		return NULL;
	}
	if (unit == GC_UNIT_S)
		shift = 6;
	else if (unit == GC_UNIT_MS)
		shift = 3;
	if (!shifted_floor(&d, shift, us) || !gc_time_in_range(*us))
		return out_of_years;
	return NULL;
}

const char *
gc_time_parse(const char *text, size_t len, const GcTimeRule *rule, GcColumnKind kind,
			  int64 *us, bool *range)
{
	bool		number = len > 0 && len <= INT_MAX && IsValidJsonNumber(text, (int) len);

	*us = 0;
	*range = false;
	if (number && rule->unit == GC_UNIT_ISO8601)
		return "it is a number, and the mapping declares iso8601";
	if (number && kind == GC_KIND_DATE && rule->unit == GC_UNIT_AUTO)
		return "a number needs a declared unit";
	if (number)
		return parse_epoch(text, len, rule->unit, us, range);
	if (rule->unit != GC_UNIT_AUTO && rule->unit != GC_UNIT_ISO8601)
		return "it is not a number, and the mapping declares a unit";
	return parse_iso(text, len, rule, kind, us, range);
}

/* Writes value in n digits. */
static char *
put_digits(char *p, int64 value, int n)
{
	for (int i = n - 1; i >= 0; i--, value /= 10)
		p[i] = '0' + (char) (value % 10);
	return p + n;
}

int
gc_time_format(int64 us, GcColumnKind kind, char *buf)
{
	int64		days = us / US_PER_DAY;
	int64		rest = us % US_PER_DAY;
	char	   *p = buf;
	int			year;
	int			month;
	int			day;

	if (rest < 0)
	{
		rest += US_PER_DAY;
		days--;
	}
	date_from_days(days, &year, &month, &day);
	p = put_digits(p, year, 4);
	*p++ = '-';
	p = put_digits(p, month, 2);
	*p++ = '-';
	p = put_digits(p, day, 2);
	if (kind != GC_KIND_DATE)
	{
		int64		seconds = rest / US_PER_S;
		int64		micros = rest % US_PER_S;

		*p++ = ' ';
		p = put_digits(p, seconds / 3600, 2);
		*p++ = ':';
		p = put_digits(p, seconds / 60 % 60, 2);
		*p++ = ':';
		p = put_digits(p, seconds % 60, 2);
		if (micros)
		{
			*p++ = '.';
			p = put_digits(p, micros, 6);
			while (p[-1] == '0')
				p--;
		}
		if (kind != GC_KIND_TIMESTAMP)
		{
			memcpy(p, "+00", 3);
			p += 3;
		}
	}
	*p = '\0';
	return (int) (p - buf);
}
